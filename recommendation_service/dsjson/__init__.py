"""Decision logs of Vowpal Wabbit and Azure Personalizer, one JSON object a line: read, weighed, and written."""
