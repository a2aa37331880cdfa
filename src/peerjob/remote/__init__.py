"""gRPC: the client, the server, the messages that both share, and the external scaler for KEDA."""
