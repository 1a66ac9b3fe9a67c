"""Tools without a subject of their own: files, tables, versions, records, a chat client."""
