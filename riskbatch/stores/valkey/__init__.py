"""One queue and one budget for several processes, in Valkey or Redis."""
