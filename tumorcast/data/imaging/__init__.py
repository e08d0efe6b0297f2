"""Image processing: geometry, transforms, registration, bias field, brain masks. Arrays and images, no layouts."""
