"""An OpenAI-compatible server around the engine in this process: the prompts of training behind `/v1/chat/completions`."""
