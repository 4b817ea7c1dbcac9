//! HTTP/2 from clients and to upstreams.

mod clients;
mod curl;
mod floods;
pub mod frames;
mod grpc;
mod messages;
mod streams;
mod upstreams;
