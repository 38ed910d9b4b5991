"""What a reader sees: charts, tables, the explorer, the Sphinx extension of the book."""
