//! HTTP/2 from clients and to upstreams.

mod curl;
