"""All that only Okta's documents can change: the wire, credentials, transport, risk providers, the environment."""
