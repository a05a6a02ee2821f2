"""Where Ray and DeepSpeed live: training on workers, and sweeps."""
