"""An index behind HTTP: embeddings, reranking and search for programs, and a page for people."""
