"""The Grafana dashboard and the alerts; not part of the images."""
