import importlib.util
import sys
from pathlib import Path

import pytest

import tumorcast.kernels


def test_another_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(tumorcast.kernels.__file__)
    spec = importlib.util.spec_from_file_location("kernels", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.raises(ImportError, match=r"tumorcast\.kernels"):
        spec.loader.exec_module(module)
    assert "kernels" not in sys.modules
