"""Files, beneath everything else: written whole or not at all, safetensors in and out, and where
checkpoints lie. Nothing here knows a configuration; what is read is judged before it is believed."""
