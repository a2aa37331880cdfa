"""What KEDA asks an external scaler: messages and service of `externalscaler.ExternalScaler`."""
