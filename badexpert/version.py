"""The one place that states the version; the build reads it without importing anything."""

VERSION = "0.1.0"
