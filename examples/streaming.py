"""Print an answer while it is generated, then the number of tokens."""

import os

from openai import OpenAI

url = os.environ.get("LORAGATE_URL", "http://127.0.0.1:8000")
client = OpenAI(base_url=f"{url}/v1", api_key="demo-acme")

stream = client.chat.completions.create(
    model="acme-support",
    messages=[{"role": "user", "content": "Which sizes does the kettle come in?"}],
    stream=True,
    stream_options={"include_usage": True},  # the last chunk has the usage and no choice
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    elif chunk.usage:
        print(f"\n({chunk.usage.completion_tokens} tokens)")
