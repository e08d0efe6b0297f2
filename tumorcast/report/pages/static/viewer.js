"use strict";
// The viewer of a patient's page. NiiVue shows two volumes on one grid, an image and a map over it.
// To show another one, its voxels are put in the place of those shown. Outlines are drawn over the canvas.
(() => {
  const byId = (id) => document.getElementById(id);
  const told = JSON.parse(byId("volumes").textContent);
  const captions = JSON.parse(byId("captions").textContent);
  const IMAGE = 0, MAP = 1;
  const LARGEST = 255, CROSS_VOXELS = 0.3;
  const decoded = new Map();
  let viewer;

  const fail = (reason) => {
    byId("viewer").hidden = true;
    byId("viewer-fault").hidden = false;
    byId("viewer-fault").textContent =
      `The viewer cannot be shown (${reason}). The pictures below show the chief slices without it.`;
  };

  const load = async (volume, options) =>
    niivue.NVImage.loadFromBase64({ base64: volume.nifti, name: `${volume.name}.nii.gz`, ...options });

  const voxelsOf = async (volume) => {
    if (!decoded.has(volume)) decoded.set(volume, (await load(volume, {})).img);
    return decoded.get(volume);
  };

  const show = async (place, volume) => {
    viewer.volumes[place].img = await voxelsOf(volume);
    viewer.updateGLVolume();
    describe();
  };

  const selected = (id) => byId(id).options[byId(id).selectedIndex].text;

  // The number of the slice that is seen: the slider's, or another one where the wheel or the pointer moved it.
  const seen = () => told.first + Math.min(Math.floor(viewer.scene.crosshairPos[2] * told.depth), told.depth - 1);

  const describe = () => {
    const number = seen(), place = told.slices.indexOf(number), opacity = `${byId("opacity").value} %`;
    const where = place < 0 ? "not forecast" : `${place + 1} of ${told.slices.length}`;
    const what = place < 0 ? "not forecast" : captions[place];
    byId("map-told").textContent = told.maps[Number(byId("map").value)].meaning;
    byId("opacity-told").textContent = opacity;
    byId("slice-told").textContent = `${number} (${where})`;
    byId("slice").setAttribute("aria-valuetext", `slice ${number}`);
    byId("opacity").setAttribute("aria-valuetext", opacity);
    byId("slice-caption").textContent = `Slice ${number}: ${what}.`;
    byId("canvas").setAttribute(
      "aria-label",
      `Slice ${number}: ${selected("image")}, with the ${selected("map")} over it at an opacity of ${opacity}`,
    );
    drawOutlines(place);
  };

  const drawOutlines = (place) => {
    const lines = byId("lines"), flat = viewer.opts.sliceType === viewer.sliceTypeAxial;
    lines.toggleAttribute("hidden", place < 0 || !flat || !byId("outlines").checked);
    const [present, ...forecasts] = told.outlines[place] ?? [""];
    const forecast = forecasts[Number(byId("map").value)] ?? forecasts[0] ?? ""; // of a whole tumour, its map's horizon
    [...lines.querySelectorAll("path")].forEach((path, k) => path.setAttribute("d", [present, forecast][k]));
  };

  // The corners of the slice on the canvas: the scene's first axis runs to the right, its second to the front.
  const placeOutlines = () => {
    const depth = viewer.scene.crosshairPos[2], ratio = viewer.canvas.width / viewer.canvas.clientWidth;
    const corners = [[1, 1, depth], [0, 0, depth]].map((corner) => viewer.frac2canvasPos(corner));
    if (corners.includes(null)) return;
    const [[left, top], [right, bottom]] = corners.map((corner) => corner.map((one) => one / ratio));
    const box = { left, top, width: right - left, height: bottom - top };
    Object.entries(box).forEach(([name, value]) => byId("lines").style.setProperty(name, `${value}px`));
  };

  const draw = () => {
    viewer.drawScene();
    placeOutlines();
    describe();
  };

  const toSlice = () => {
    viewer.scene.crosshairPos[2] = (told.slices[Number(byId("slice").value)] - told.first + 0.5) / told.depth;
    draw();
  };

  const followPlace = () => {
    const away = told.slices.map((one) => Math.abs(one - seen()));
    byId("slice").value = String(away.indexOf(Math.min(...away)));
    placeOutlines();
    describe();
  };

  const setPlanes = () => {
    const wanted = byId("planes") !== null && byId("planes").checked;
    viewer.setCrosshairWidth(wanted ? CROSS_VOXELS : 0);
    viewer.setSliceType(wanted ? viewer.sliceTypeMultiplanar : viewer.sliceTypeAxial);
    draw();
  };

  // Evenly spaced colours, and before them none: what is below `least_shown` fades out.
  const addColours = () => {
    const channel = (which) => [0, ...told.colours.map((colour) => colour[which])];
    const stops = told.colours.map((_, k) => Math.round((LARGEST * k) / (told.colours.length - 1)));
    const places = [0, told.least_shown, ...stops.slice(1)], alpha = places.map((one) => (one ? LARGEST : 0));
    viewer.addColormap("probability", { R: channel(0), G: channel(1), B: channel(2), A: alpha, I: places });
    const bar = told.colours.map((colour) => `rgb(${colour.join(" ")})`).join(",");
    byId("scale-bar").style.background = `linear-gradient(to right,${bar})`;
  };

  const addVolumes = async () => {
    const whole = { cal_min: 0, cal_max: LARGEST };
    const opacity = Number(byId("opacity").value) / 100;
    viewer.addVolume(await load(told.images[0], { ...whole, colormap: "gray" }));
    viewer.addVolume(await load(told.maps[0], { ...whole, colormap: "probability", opacity }));
    decoded.set(told.images[0], viewer.volumes[IMAGE].img).set(told.maps[0], viewer.volumes[MAP].img);
  };

  const listen = () => {
    byId("image").addEventListener("change", (event) => show(IMAGE, told.images[Number(event.target.value)]));
    byId("map").addEventListener("change", (event) => show(MAP, told.maps[Number(event.target.value)]));
    byId("opacity").addEventListener("input", (event) => {
      viewer.setOpacity(MAP, Number(event.target.value) / 100);
      describe();
    });
    byId("slice").addEventListener("input", toSlice);
    byId("outlines").addEventListener("change", describe);
    byId("planes")?.addEventListener("change", setPlanes);
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    viewer.onLocationChange = followPlace;
    new ResizeObserver(() => requestAnimationFrame(draw)).observe(byId("canvas"));
  };

  const start = async () => {
    if (typeof niivue === "undefined") throw new Error("static/niivue.umd.js is not beside the folder of this page");
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser has no WebGL 2");
    byId("viewer").hidden = false;
    byId("controls").reset(); // a browser keeps what was chosen before a reload
    viewer = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.34, 0.71, 0.91, 1],
      crosshairWidth: 0,
      dragAndDropEnabled: false,
      isRadiologicalConvention: true,
      loadingText: "",
      logLevel: "error",
      multiplanarShowRender: 0,
      sagittalNoseLeft: true,
      show3Dcrosshair: false,
    });
    await viewer.attachToCanvas(byId("canvas"));
    byId("canvas").tabIndex = -1; // what it shows is moved by the controls beside it
    addColours();
    await addVolumes();
    listen();
    viewer.scene.crosshairPos.set(told.centre);
    setPlanes();
    toSlice();
    byId("viewer").dataset.ready = "yes";
  };

  start().catch((fault) => fail(fault.message));
})();
