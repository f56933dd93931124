"""Results for people: tables, learning curves and samples, as Markdown and as one HTML page."""
