//! Thread-per-core runtime: placement, executors, data rings, buffers, mesh and timers. Knows no MCP.
