"""The built-in evaluators: they register by entry point, as anyone's would, and use autotune's public protocol."""
