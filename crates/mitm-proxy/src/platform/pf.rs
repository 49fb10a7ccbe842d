//! Transparent mode with pf, the packet filter of macOS and FreeBSD: its table of states says where a redirected
//! connection was going.
//!
//! The table is what `pfctl -s state` prints, one state a line. One that is redirected names three addresses, the
//! proxy's first and the client's last:
//!
//! ```text
//! ALL tcp 127.0.0.1:8080 <- 192.0.2.9:443 <- 198.51.100.4:57474       ESTABLISHED:ESTABLISHED
//! all tcp 127.0.0.1:8080 (192.0.2.9:443) <- 198.51.100.4:57474       ESTABLISHED:ESTABLISHED
//! ALL tcp ::1[8080] <- 2001:db8::9[443] <- 2001:db8::4[57474]       ESTABLISHED:ESTABLISHED
//! ```
//!
//! The second form is that of newer versions. Reading the table needs root; `sudo` gives it, without a question.

use std::net::{Ipv6Addr, SocketAddr};

/// Finds where the connection from `client` to `local`, the proxy, was going.
fn lookup(table: &str, client: SocketAddr, local: SocketAddr) -> Option<SocketAddr> {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (client, local) = (canonical(client), canonical(local));
    table.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        if words.next() != Some("tcp") {
            return None;
        }
        let proxy = address(words.next()?)?;
        let next = words.next()?;
        let original = match next.strip_prefix('(') {
            Some(original) => address(original.strip_suffix(')')?)?,
            None if next == "<-" => address(words.next()?)?,
            None => return None,
        };
        let from = (words.next()? == "<-").then(|| words.next()).flatten()?;
        let is_it = proxy == local
            && address(from) == Some(client)
            && words.next() == Some("ESTABLISHED:ESTABLISHED");
        is_it.then_some(original)
    })
}

/// Reads `192.0.2.1:80` or `2001:db8::1[80]`; the latter may have a scope.
fn address(text: &str) -> Option<SocketAddr> {
    if let Some(text) = text.strip_suffix(']') {
        let (ip, port) = text.split_once('[')?;
        let ip = ip.split_once('%').map_or(ip, |(ip, _)| ip);
        return Some(SocketAddr::new(ip.parse::<Ipv6Addr>().ok()?.into(), port.parse().ok()?));
    }
    text.parse::<std::net::SocketAddrV4>().ok().map(SocketAddr::V4)
}

/// Asks pf.
#[cfg(any(target_os = "macos", target_os = "freebsd"))]
pub(super) async fn original_destination(
    tcp: &tokio::net::TcpStream,
) -> std::io::Result<SocketAddr> {
    use std::{
        io,
        process::{Command, Stdio},
    };

    let (client, local) = (tcp.peer_addr()?, tcp.local_addr()?);
    let run = || {
        let mut command = Command::new("sudo");
        command.args(["-n", "/sbin/pfctl", "-s", "state"]).stdin(Stdio::null());
        command.output()
    };
    let output = tokio::task::spawn_blocking(run).await.map_err(io::Error::other)??;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or_default();
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("cannot read pf's states by 'sudo -n /sbin/pfctl -s state': {said}"),
        ));
    }
    lookup(&String::from_utf8_lossy(&output.stdout), client, local).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("pf knows no state of {client}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACOS: &str = "\
No ALTQ support in kernel
ALTQ related functions disabled
ALL tcp 10.0.0.1:22 <- 10.0.0.7:50000       ESTABLISHED:ESTABLISHED
ALL udp 10.0.0.1:53 <- 8.8.8.8:53 <- 10.0.0.7:50001       MULTIPLE:MULTIPLE
ALL tcp 127.0.0.1:8080 <- 192.0.2.8:80 <- 10.0.0.7:50001       FIN_WAIT_2:FIN_WAIT_2
ALL tcp 127.0.0.1:9090 <- 192.0.2.7:80 <- 10.0.0.7:50001       ESTABLISHED:ESTABLISHED
ALL tcp 127.0.0.1:8080 <- 192.0.2.9:443 <- 10.0.0.7:50001       ESTABLISHED:ESTABLISHED
ALL tcp 10.0.0.7:50001 -> 192.0.2.9:443       ESTABLISHED:ESTABLISHED
ALL tcp ::1[8080] <- 2001:db8::9[443] <- fd00::7[50001]       ESTABLISHED:ESTABLISHED
ALL tcp fe80::1%lo0[8080] <- 2001:db8::8[80] <- fe80::7%en0[50001]       ESTABLISHED:ESTABLISHED
";
    const FREEBSD: &str = "\
all tcp 127.0.0.1:8080 (192.0.2.9:443) <- 10.0.0.7:50001       ESTABLISHED:ESTABLISHED
all tcp ::1[8080] (2001:db8::9[443]) <- fd00::7[50001]       ESTABLISHED:ESTABLISHED
all tcp 10.0.0.1:60000 (10.0.0.7:50002) -> 192.0.2.9:443       ESTABLISHED:ESTABLISHED
";

    fn found(table: &str, client: &str, local: &str) -> String {
        let found = lookup(table, client.parse().unwrap(), local.parse().unwrap());
        found.map(|address| address.to_string()).unwrap_or_default()
    }

    #[test]
    fn states_tell_where_it_was_going() {
        for table in [MACOS, FREEBSD] {
            assert_eq!(found(table, "10.0.0.7:50001", "127.0.0.1:8080"), "192.0.2.9:443");
            assert_eq!(found(table, "[::ffff:10.0.0.7]:50001", "127.0.0.1:8080"), "192.0.2.9:443");
            assert_eq!(found(table, "[fd00::7]:50001", "[::1]:8080"), "[2001:db8::9]:443");
            assert_eq!(found(table, "10.0.0.7:50002", "127.0.0.1:8080"), "");
            assert_eq!(found(table, "10.0.0.7:5000", "127.0.0.1:8080"), "");
        }
        assert_eq!(found(MACOS, "[fe80::7]:50001", "[fe80::1]:8080"), "[2001:db8::8]:80");
    }

    #[test]
    fn nonsense_is_no_state() {
        for table in [
            "",
            "ALL",
            "ALL tcp",
            "ALL tcp 127.0.0.1:8080",
            "ALL tcp 127.0.0.1:8080 (",
            "ALL tcp 127.0.0.1:8080 <-",
            "ALL tcp 127.0.0.1:8080 <- 192.0.2.9:443 <- 10.0.0.7:50001",
            "ALL tcp 127.0.0.1:8080 <- 192.0.2.9:99999 <- 10.0.0.7:50001 ESTABLISHED:ESTABLISHED",
            "ALL tcp ::1[8080 <- [80] <- ][",
        ] {
            assert_eq!(found(table, "10.0.0.7:50001", "127.0.0.1:8080"), "", "{table}");
        }
    }
}
