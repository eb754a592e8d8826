//! The HTTP module before real web servers: what clients see, and what web servers are told.

mod serving;
