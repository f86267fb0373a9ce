"""A gRPC server: calls over agent.http2, on asyncio's transports."""
