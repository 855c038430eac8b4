"""Get an answer that follows a JSON schema. The engine can only generate text that fits it."""

import json
import os

from openai import OpenAI

url = os.environ.get("LORAGATE_URL", "http://127.0.0.1:8000")
client = OpenAI(base_url=f"{url}/v1", api_key="demo-acme")

schema = {
    "type": "object",
    "properties": {
        "mood": {"enum": ["happy", "neutral", "angry"]},
        "urgent": {"type": "boolean"},
    },
    "required": ["mood", "urgent"],
    "additionalProperties": False,
}
answer = client.chat.completions.create(
    model="acme-support",
    messages=[{"role": "user", "content": "My parcel has not arrived."}],
    response_format={"type": "json_schema", "json_schema": {"name": "triage", "schema": schema}},
    temperature=0,
)
print(json.loads(answer.choices[0].message.content or ""))
