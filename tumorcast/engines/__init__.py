"""What computes the networks: torch and ONNX Runtime; bundles and their export."""
