//! A real LDAP server for a test: slapd, plain and TLS on loopback, with everything in a directory of its own.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::external::external;
use crate::net::free_port;
use crate::tls::Authority;

/// The name that the certificate is issued for, beside `127.0.0.1`.
pub const NAME: &str = "localhost";
/// The administrator, who may search.
pub const ADMIN: &str = "cn=admin,dc=example,dc=org";
/// The administrator's password.
pub const ADMIN_PASSWORD: &str = "admin-secret";
/// Where the users are: entries with the attributes `cn` and `uid`.
pub const PEOPLE: &str = "ou=people,dc=example,dc=org";

/// A running slapd; it ends when dropped.
pub struct Slapd {
    ldap: u16,
    ldaps: u16,
    child: Child,
    directory: TempDir,
}

impl Slapd {
    /// Starts slapd with these users: `cn`, `uid`, password. `None` when the test should return early for want of it.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(users: &[(&str, &str, &str)]) -> Option<Self> {
        let (program, add) = (external("slapd")?, external("slapadd")?);
        // between choosing a port and listening on it another test may take it
        let mut slapd = (0..3).find_map(|_| Self::try_start(&program, &add, users));
        assert!(slapd.is_some(), "slapd does not start");
        slapd.take()
    }

    /// Returns the port of plain LDAP.
    pub fn ldap(&self) -> u16 {
        self.ldap
    }

    /// Returns the port of LDAP in TLS.
    pub fn ldaps(&self) -> u16 {
        self.ldaps
    }

    /// Returns the file with the authority behind its certificate.
    pub fn trust_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn try_start(program: &Path, add: &Path, users: &[(&str, &str, &str)]) -> Option<Self> {
        let directory = TempDir::with_prefix("slapd-").expect("a temporary directory");
        let at = directory.path();
        fs::create_dir(at.join("db")).expect("the directory is ours");
        Authority::new("slapd test authority").issue(&[NAME, "127.0.0.1"]).write(at);
        let config = at.join("slapd.conf");
        fs::write(&config, configuration(at)).expect("the directory is ours");
        let data = at.join("data.ldif");
        fs::write(&data, entries(users)).expect("the directory is ours");
        let added = Command::new(add)
            .arg("-f")
            .arg(&config)
            .arg("-l")
            .arg(&data)
            .stdin(Stdio::null())
            .output()
            .expect("the program that was found can be run");
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));

        let (ldap, ldaps) = (free_port(), free_port());
        let log = fs::File::create(at.join("stderr.log")).expect("the directory is ours");
        let child = Command::new(program)
            // in the foreground
            .args(["-d", "0", "-f"])
            .arg(&config)
            .args(["-h", &format!("ldap://127.0.0.1:{ldap}/ ldaps://127.0.0.1:{ldaps}/")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program that was found can be run");
        let mut slapd = Self { ldap, ldaps, child, directory };
        slapd.listens().then_some(slapd)
    }

    fn listens(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        let accepts =
            |port: u16| TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok();
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                let log = fs::read_to_string(self.directory.path().join("stderr.log"));
                eprintln!("slapd ended: {}", log.unwrap_or_default());
                return false;
            }
            if accepts(self.ldap) && accepts(self.ldaps) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn configuration(directory: &Path) -> String {
    let at = directory.display();
    format!(
        "include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {at}/slapd.pid
argsfile {at}/slapd.args
TLSCertificateFile {at}/cert.pem
TLSCertificateKeyFile {at}/key.pem
TLSCACertificateFile {at}/ca.pem
database mdb
suffix dc=example,dc=org
rootdn {ADMIN}
rootpw {ADMIN_PASSWORD}
directory {at}/db
maxsize 10485760
"
    )
}

fn entries(users: &[(&str, &str, &str)]) -> String {
    let mut text = format!(
        "dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: example
dc: example

dn: {PEOPLE}
objectClass: organizationalUnit
ou: people
"
    );
    for (cn, uid, password) in users {
        write!(
            text,
            "
dn: uid={uid},{PEOPLE}
objectClass: inetOrgPerson
cn: {cn}
sn: {cn}
uid: {uid}
userPassword: {password}
"
        )
        .expect("a text takes anything");
    }
    text
}
