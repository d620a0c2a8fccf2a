"""Running models with OpenVINO: compiling, log-probabilities, decoding."""
