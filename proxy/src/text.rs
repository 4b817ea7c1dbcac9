//! Small texts written without allocation: addresses, numbers.

use std::fmt::Write;
use std::net::IpAddr;

use holdfast_runtime::buffers::Buffer;

/// Anything that bytes are appended to.
pub trait Sink {
    /// Appends.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Buffer {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

struct Formatter<'a, S: Sink>(&'a mut S);

impl<S: Sink> Write for Formatter<'_, S> {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.put(s.as_bytes());
        Ok(())
    }
}

/// Writes an address; the IPv4 form by hand, since it is on every request.
pub fn write_ip<S: Sink>(ip: IpAddr, out: &mut S) {
    match ip {
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.put(b".");
                }
                write_number(u64::from(octet), out);
            }
        }
        // The bare form is what X-Forwarded-For holds in practice.
        IpAddr::V6(v6) => {
            let _ = write!(Formatter(out), "{v6}");
        }
    }
}

/// Writes a number in decimal.
pub fn write_number<S: Sink>(n: u64, out: &mut S) {
    out.put(itoa::Buffer::new().format(n).as_bytes());
}

/// Formats anything into a sink.
pub fn write_fmt<S: Sink>(out: &mut S, arguments: std::fmt::Arguments<'_>) {
    let _ = Formatter(out).write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_the_standard_library_writes_them() {
        for text in [
            "0.0.0.0",
            "127.0.0.1",
            "255.255.255.255",
            "10.20.130.4",
            "::1",
            "2001:db8::1",
        ] {
            let mut out = Vec::new();
            write_ip(text.parse().expect("an address"), &mut out);
            assert_eq!(String::from_utf8(out).expect("ASCII"), text);
        }
    }
}
