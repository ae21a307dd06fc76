"""How ``data_processing`` reads, types, queries and writes datasets; DuckDB is imported when a job runs."""
