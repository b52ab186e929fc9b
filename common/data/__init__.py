"""Data modules: batches of (image (B,C,H,W) float32 in [0,1], label (B,) int64, index (B,) int64)."""
