"""General tools: files, tables, versions, records, a chat client."""
