"""Reports: records to tables, figures, a spreadsheet and one HTML page."""
