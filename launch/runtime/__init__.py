"""What a run needs beside its algorithm: flags, drivers, run folder, logger, checkpoints and saved models."""
