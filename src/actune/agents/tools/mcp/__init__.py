"""Tools of MCP servers: configuration as other clients write it, connections, names, results."""
