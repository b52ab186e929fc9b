"""Python interface: what users import as ``robust_diffusion``."""
