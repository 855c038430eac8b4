"""Use an adapter as a chat model in LangChain (`pip install langchain-openai`)."""

import os

from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

url = os.environ.get("LORAGATE_URL", "http://127.0.0.1:8000")
model = ChatOpenAI(base_url=f"{url}/v1", api_key="demo-acme", model="acme-support", temperature=0)
prompt = ChatPromptTemplate.from_messages([("user", "{question}")])

chain = prompt | model
print(chain.invoke({"question": "Hello!"}).content)
for chunk in chain.stream({"question": "Which sizes does the kettle come in?"}):
    print(chunk.content, end="", flush=True)
print()
