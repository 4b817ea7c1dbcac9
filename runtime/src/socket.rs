//! Listeners: a group for each address, one listener a core, and how connections are accepted.
//!
//! Owns the listening descriptors. A [`Group`] is bound at boot, on any thread; each core makes its
//! [`Listener`] out of its [`Bound`] on its own thread.
//!
//! Invariants: the first socket of a group is bound without SO_REUSEPORT, so that anybody who already
//! listens there, a stale instance of ours too, is noticed and refused; only then the group opens to
//! the other cores. Port 0 is chosen once, for all. Dropping an accept loses no connection: it only
//! ever waits for readiness, and takes a connection in the same poll that returns it. When
//! descriptors run out accepting pauses, and never spins.
//!
//! It deliberately does not close a listener of a group early (that resets what waits in its queue)
//! and knows no protocol. Tested by `tests/sockets.rs`.

use std::fs;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use monoio::utils::is_legacy;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::error::Error;
use crate::fd::PollFd;
use crate::stream::Stream;

/// How long accepting pauses when the process or the machine has run out of descriptors or memory.
pub const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// One listening descriptor on its way to its core.
#[derive(Debug)]
pub struct Bound {
    fd: OwnedFd,
    unix: bool,
}

/// The listeners of one address.
#[derive(Debug)]
pub struct Group {
    address: Option<SocketAddr>,
    bound: Vec<Bound>,
}

impl Group {
    /// The address that it listens on, with the port that the kernel chose; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Lets the CPU that handles a new connection's first packet choose the listener: that of the core
    /// which is pinned to it, by position in `cpus`. Connections from other CPUs go by the CPU's number
    /// modulo the number of cores. Without this the kernel chooses by a hash of the addresses.
    ///
    /// A classic BPF program of the group (SO_ATTACH_REUSEPORT_CBPF, socket(7)). For a group that its
    /// sockets have not left; a group of one socket, or a unix socket, has nothing to choose.
    ///
    /// # Errors
    /// The kernel's.
    pub fn steer_by_cpu(&self, cpus: &[Option<usize>]) -> io::Result<()> {
        let Some(first) = self.bound.first() else {
            return Ok(());
        };
        if self.bound.len() < 2 || first.unix {
            return Ok(());
        }
        let program = steering(cpus, self.bound.len());
        let program = libc::sock_fprog {
            len: program.len() as u16,
            filter: program.as_ptr().cast_mut(),
        };
        // SAFETY: `program` and the filter that it points to live until the call has returned, which
        // copies them; the length is that of the structure.
        let result = unsafe {
            libc::setsockopt(
                first.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_CBPF,
                (&raw const program).cast(),
                mem::size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// The listeners, one a core.
    pub fn into_listeners(self) -> Vec<Bound> {
        self.bound
    }
}

/// The program of [`Group::steer_by_cpu`]: CPU in, index of the listener out.
fn steering(cpus: &[Option<usize>], listeners: usize) -> Vec<libc::sock_filter> {
    // Offset of SKF_AD_CPU among the loads that are no packet bytes (linux/filter.h).
    const CPU: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32;
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const MODULO: u32 = libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K;
    const RETURN_VALUE: u32 = libc::BPF_RET | libc::BPF_K;
    const RETURN_A: u32 = libc::BPF_RET | 0x10;
    let step = |code: u32, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let mut program = vec![step(LOAD, 0, CPU)];
    // A program has at most 4,096 steps (BPF_MAXINSNS): cores beyond go by the modulo.
    for (listener, cpu) in cpus.iter().take(listeners).take(1024).enumerate() {
        if let Some(cpu) = cpu {
            program.push(step(EQUAL, 1, *cpu as u32));
            program.push(step(RETURN_VALUE, 0, listener as u32));
        }
    }
    program.push(step(MODULO, 0, listeners as u32));
    program.push(step(RETURN_A, 0, 0));
    program
}

/// The longest queue of connections that the kernel allows (net.core.somaxconn).
pub fn backlog() -> i32 {
    fs::read_to_string("/proc/sys/net/core/somaxconn")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(libc::SOMAXCONN)
}

fn socket(address: &SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(*address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Lets a restart bind while connections of the last run are in TIME_WAIT; not while one listens.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// How long [`bind`] waits for an address that is taken by no living process.
pub const GHOST_WAIT: Duration = Duration::from_secs(10);

/// Listens with the first socket of a group, without SO_REUSEPORT.
///
/// The kernel takes a ring down some time after its process has ended, and with it the listener that
/// the ring polled: a restart finds the address taken by nobody for a moment, and waits for it.
fn listen_alone(address: &SocketAddr, backlog: i32) -> Result<Socket, Error> {
    let fail = |e| Error::listen(address, e);
    let end = Instant::now() + GHOST_WAIT;
    loop {
        let socket = socket(address).map_err(fail)?;
        // Of two that start at the same time both may bind, but only one can listen.
        let listening = socket
            .bind(&(*address).into())
            .and_then(|()| socket.listen(backlog));
        match listening {
            Ok(()) => return Ok(socket),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                let holder = holder_of(address.port());
                if holder.is_some() || Instant::now() > end {
                    return Err(Error::AddressInUse {
                        address: address.to_string(),
                        holder,
                    });
                }
                thread::sleep(Duration::from_millis(50));
            }
            Err(e) => return Err(fail(e)),
        }
    }
}

/// Binds `cores` listeners (at least one) to `address`. Blocks for up to [`GHOST_WAIT`] while the
/// address is taken and no process can be seen to hold it.
///
/// # Errors
/// Somebody listens there already ([`Error::AddressInUse`]), or the address can't be had.
pub fn bind(address: SocketAddr, cores: usize) -> Result<Group, Error> {
    let fail = |e| Error::listen(&address, e);
    let backlog = backlog();
    let first = listen_alone(&address, backlog)?;
    let address = first
        .local_addr()
        .map_err(fail)?
        .as_socket()
        .unwrap_or(address);
    if cores > 1 {
        // Nobody else was there. From here on the group is open, to sockets of our own user only.
        first.set_reuse_port(true).map_err(fail)?;
    }
    let mut sockets = vec![first];
    for _ in 1..cores {
        let socket = socket(&address).map_err(fail)?;
        socket.set_reuse_port(true).map_err(fail)?;
        socket.bind(&address.into()).map_err(fail)?;
        socket.listen(backlog).map_err(fail)?;
        sockets.push(socket);
    }
    let bound = sockets.into_iter().map(|socket| Bound {
        fd: socket.into(),
        unix: false,
    });
    Ok(Group {
        address: Some(address),
        bound: bound.collect(),
    })
}

/// Binds a unix socket for `cores` cores, which share its queue. A socket file that nobody listens
/// on is replaced.
///
/// # Errors
/// Somebody listens there already, the path is no socket, or it can't be bound.
pub fn bind_unix(path: &Path, cores: usize) -> Result<Group, Error> {
    let address = format!("unix:{}", path.display());
    let fail = |source| Error::Listen {
        address: address.clone(),
        source,
    };
    if let Ok(meta) = fs::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            return Err(fail(io::ErrorKind::AlreadyExists.into()));
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(fail)?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            _ => {
                return Err(Error::AddressInUse {
                    address,
                    holder: None,
                });
            }
        }
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(fail)?;
    socket.set_nonblocking(true).map_err(fail)?;
    socket
        .bind(&SockAddr::unix(path).map_err(fail)?)
        .map_err(fail)?;
    socket.listen(backlog()).map_err(fail)?;
    let mut bound = Vec::with_capacity(cores);
    for _ in 1..cores {
        bound.push(Bound {
            fd: socket.try_clone().map_err(fail)?.into(),
            unix: true,
        });
    }
    bound.push(Bound {
        fd: socket.into(),
        unix: true,
    });
    Ok(Group {
        address: None,
        bound,
    })
}

/// Who listens on a TCP port, as far as this user may know.
fn holder_of(port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| {
            fs::read_to_string(table)
                .ok()?
                .lines()
                .skip(1)
                .find_map(|line| {
                    let mut fields = line.split_whitespace();
                    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
                    let held = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
                    (held == port && state == LISTEN).then(|| fields.nth(5).map(str::to_owned))?
                })
        })?;
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = descriptors.flatten().any(|fd| {
            fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
        });
        if holds {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {pid})", command.trim()));
        }
    }
    None
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: Stream,
    /// The client's address; `None` for a unix socket.
    pub peer: Option<SocketAddr>,
}

/// A core's listener.
#[derive(Debug)]
pub struct Listener {
    fd: PollFd,
    unix: bool,
    local: Option<SocketAddr>,
}

impl Listener {
    /// Takes its place in this core's driver.
    ///
    /// # Errors
    /// The driver has no place.
    pub fn new(bound: Bound) -> io::Result<Self> {
        let local = socket2::SockRef::from(&bound.fd).local_addr()?.as_socket();
        Ok(Self {
            fd: PollFd::new(bound.fd)?,
            unix: bound.unix,
            local,
        })
    }

    /// The address that it listens on; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Gives the address up at once, whoever else holds the descriptor: connections that wait in its
    /// queue are reset. For the end of a process that hands nothing on; a ring that still knows a
    /// dropped listener would keep the address for a while.
    pub fn close(self) {
        // SAFETY: no memory is involved, and the descriptor is open.
        unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// The next connection. May be dropped at any time.
    ///
    /// # Errors
    /// Descriptors or memory have run out, after a pause of [`EXHAUSTED_PAUSE`]: count it and go on.
    /// Anything else means that the listener is of no more use.
    pub async fn accept(&self) -> io::Result<Accepted> {
        loop {
            match self.accept_now() {
                Ok(accepted) => return Ok(accepted),
                Err(e) => match e.raw_os_error() {
                    Some(libc::EAGAIN) => self.fd.readable().await?,
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        monoio::time::sleep(EXHAUSTED_PAUSE).await;
                        return Err(e);
                    }
                    // Errors of the connection, not of the listener: accept(2) hands them on.
                    Some(
                        libc::EINTR
                        | libc::ECONNABORTED
                        | libc::EPERM
                        | libc::EPROTO
                        | libc::ENETDOWN
                        | libc::ENOPROTOOPT
                        | libc::EHOSTDOWN
                        | libc::ENONET
                        | libc::EHOSTUNREACH
                        | libc::EOPNOTSUPP
                        | libc::ENETUNREACH,
                    ) => {}
                    _ => return Err(e),
                },
            }
        }
    }

    /// Takes a connection that waits.
    ///
    /// # Errors
    /// `WouldBlock` if none does; else accept(2)'s.
    pub fn accept_now(&self) -> io::Result<Accepted> {
        // The ring waits inside the kernel, the legacy driver must not.
        let flags = libc::SOCK_CLOEXEC | if is_legacy() { libc::SOCK_NONBLOCK } else { 0 };
        let (fd, peer) = accept4(self.fd.as_raw_fd(), flags)?;
        Ok(Accepted {
            stream: Stream::adopt(fd, self.unix)?,
            peer,
        })
    }
}

/// Whether an error of [`Listener::accept`] passes.
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

fn accept4(fd: RawFd, flags: i32) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `storage` is writable memory of `length` bytes.
    let accepted = unsafe { libc::accept4(fd, storage.as_mut_ptr().cast(), &mut length, flags) };
    if accepted < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call gave us this descriptor, nobody else has it.
    let accepted = unsafe { OwnedFd::from_raw_fd(accepted) };
    // SAFETY: it was zeroed, which is a valid storage, and the kernel wrote over that.
    let storage = unsafe { storage.assume_init() };
    Ok((accepted, to_address(&storage)))
}

/// The IP address of a kernel's socket address.
fn to_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let pointer: *const libc::sockaddr_storage = storage;
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: a storage is large enough and aligned for every family's address.
            let v4 = unsafe { &*pointer.cast::<libc::sockaddr_in>() };
            let ip = std::net::Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some((ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*pointer.cast::<libc::sockaddr_in6>() };
            let ip = std::net::Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(std::net::SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}
