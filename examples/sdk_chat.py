"""Ask two tenants' adapters one question with the official OpenAI SDK."""

import os

from openai import OpenAI

url = os.environ.get("LORAGATE_URL", "http://127.0.0.1:8000")
question = [{"role": "user", "content": "Hello!"}]

for key, model in (("demo-acme", "acme-support"), ("demo-globex", "globex-tools")):
    client = OpenAI(base_url=f"{url}/v1", api_key=key)
    answer = client.chat.completions.create(model=model, messages=question, temperature=0)
    print(f"{model}: {answer.choices[0].message.content} ({answer.usage.total_tokens} tokens)")
