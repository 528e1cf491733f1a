"""Many runs as one experiment: pipelines and searches."""
