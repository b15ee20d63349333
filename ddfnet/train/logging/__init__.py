"""What a run writes: its lines on the console, metrics.jsonl, TensorBoard, Weights & Biases."""
