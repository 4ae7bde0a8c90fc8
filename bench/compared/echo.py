"""A minimal producer with the same model: no limits, metrics, faults or marker header; uvicorn logs a line per call."""

import os

import uvicorn
from fastapi import FastAPI, Request

from common.headers import header_map
from common.messages import ClusterMetadata, Message, MessageAck

app = FastAPI()
METADATA = ClusterMetadata(cluster_name="producer-cluster")


@app.post("/producer/messages")
async def echo(message: Message, request: Request) -> MessageAck:
    headers = header_map(request.scope["headers"])
    return MessageAck(id=message.id, received=message.payload, headers=headers, metadata=METADATA)


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]))
