"""Let the model call a function, then print the call with its arguments."""

import json
import os

from openai import OpenAI

url = os.environ.get("LORAGATE_URL", "http://127.0.0.1:8000")
client = OpenAI(base_url=f"{url}/v1", api_key="demo-globex")

weather = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
answer = client.chat.completions.create(
    model="globex-tools",
    messages=[{"role": "user", "content": "What is the weather in Paris?"}],
    tools=[weather],
    temperature=0,
)
for call in answer.choices[0].message.tool_calls or []:
    print(call.function.name, json.loads(call.function.arguments))
