"""The shared vocabulary: plain records that every stage speaks. Imports nothing but numpy and onnx."""
