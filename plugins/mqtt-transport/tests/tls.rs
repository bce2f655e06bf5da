//! TLS to a real mosquitto, with certificates made here.

mod stage;

use std::path::PathBuf;
use std::time::Duration;

use mqtt_transport::{MqttConfig, MqttGauge, MqttTransport, MqttVersion, TlsFiles};
use protocol::{Service, Stop, StopHandle, Transport};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use stage::{CLIENT, Ear, Mosquitto, NODE, Nobody, Node, answer_of, ask, free_port, say, until};

const HELLO: &str = r#"{"messages":[{"role":"user","content":"hello"}]}"#;

/// A folder of certificates: two CAs, and what they signed.
struct Papers {
    folder: tempfile::TempDir,
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Papers {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("written");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let owner_alone = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&path, owner_alone).expect("set");
        }
        path
    }

    fn ca(&self, name: &str) -> Ca {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("valid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        self.write(&format!("{name}.pem"), &pem);
        Ca { issuer: Issuer::new(params, key), pem }
    }

    /// Signs a certificate and writes it and its key.
    fn sign(&self, ca: &Ca, file: &str, subject: &str, edit: impl Fn(&mut CertificateParams)) {
        let mut params = CertificateParams::new(vec![subject.to_owned()]).expect("valid");
        params.distinguished_name.push(DnType::CommonName, subject);
        edit(&mut params);
        let key = KeyPair::generate().expect("a key");
        let pem = params.signed_by(&key, &ca.issuer).expect("signed").pem();
        self.write(&format!("{file}.pem"), &pem);
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }

    fn files(&self, ca: &str, own: Option<&str>) -> TlsFiles {
        TlsFiles {
            ca_file: Some(self.path(&format!("{ca}.pem"))),
            cert_file: own.map(|own| self.path(&format!("{own}.pem"))),
            key_file: own.map(|own| self.path(&format!("{own}.key"))),
        }
    }
}

/// Everything that the tests need; `server` is what the broker shows.
fn papers() -> Papers {
    let papers = Papers::new();
    let (house, stranger) = (papers.ca("house"), papers.ca("stranger"));
    assert_ne!(house.pem, stranger.pem);
    papers.sign(&house, "server", "localhost", |_| {});
    papers.sign(&house, "elsewhere", "gateway.example", |_| {});
    papers.sign(&house, "old-server", "localhost", |params| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    });
    papers.sign(&house, "node", "jet-03", |_| {});
    papers.sign(&stranger, "foreign", "jet-03", |_| {});
    papers.sign(&house, "expired", "jet-03", |params| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    });
    papers
}

struct Guarded {
    broker: Mosquitto,
    port: u16,
}

/// A broker with a plain listener for the test's clients and one over TLS for the node.
fn guarded(papers: &Papers, server: &str, wants_certificate: bool) -> Option<Guarded> {
    let port = free_port();
    let show = |name: String| papers.path(&name).display().to_string();
    let more = format!(
        "allow_anonymous true\nlistener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n\
         require_certificate {wants_certificate}\n",
        show("house.pem".into()),
        show(format!("{server}.pem")),
        show(format!("{server}.key")),
    );
    Some(Guarded { broker: Mosquitto::with(&more)?, port })
}

fn config(port: u16, tls: TlsFiles) -> MqttConfig {
    let mut config = stage::config(port);
    config.url = format!("mqtts://localhost:{port}");
    config.tls = tls;
    config
}

macro_rules! guarded {
    ($papers:expr, $server:expr, $wants:expr) => {
        match guarded($papers, $server, $wants) {
            Some(guarded) => guarded,
            None => return,
        }
    };
}

/// A transport that is not expected to come up.
struct Trying {
    gauge: MqttGauge,
    stop: Option<StopHandle>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Trying {
    fn start(config: MqttConfig) -> Self {
        let transport = Box::new(MqttTransport::new(config).expect("valid"));
        let gauge = transport.gauge();
        let (handle, stop) = Stop::pair();
        let service: std::sync::Arc<dyn Service> = std::sync::Arc::new(Nobody);
        let thread = std::thread::spawn(move || transport.serve(service, stop).expect("no error"));
        Self { gauge, stop: Some(handle), thread: Some(thread) }
    }

    /// Why it does not come up.
    fn trouble(&self) -> String {
        until("it says why", || self.gauge.trouble().is_some());
        assert!(!self.gauge.tally().online);
        self.gauge.trouble().expect("there is one")
    }
}

impl Drop for Trying {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _joined = thread.join();
        }
    }
}

fn complaint(config: MqttConfig) -> String {
    MqttTransport::new(config).expect_err("must be refused").to_string()
}

#[test]
fn answers_go_through_tls_in_both_versions_with_and_without_our_certificate() {
    let papers = papers();
    for (version, wants_certificate) in
        [(MqttVersion::V5, false), (MqttVersion::V5, true), (MqttVersion::V311, true)]
    {
        let guarded = guarded!(&papers, "server", wants_certificate);
        let own = wants_certificate.then_some("node");
        let mut config = config(guarded.port, papers.files("house", own));
        config.version = version;
        let node = Node::start(config);
        let plain = guarded.broker.port;
        let ear = Ear::on(plain, "311", &[&format!("{CLIENT}/plc7/reply/+")]);
        say(plain, "311", &format!("{NODE}/chat/request/plc7/1"), HELLO, &[]);
        node.asked().answer(&["through ", "TLS"]);
        assert_eq!(ear.next_where(|heard| heard.status() == 200).text(), "through TLS");
        if version == MqttVersion::V5 {
            let reply = format!("{CLIENT}/me/reply/1");
            let asking = ask(plain, &format!("{NODE}/chat/request"), &reply, HELLO, &[]);
            node.asked().answer(&["again"]);
            assert_eq!(answer_of(asking)["choices"][0]["message"]["content"], "again");
        }
    }
}

#[test]
fn a_broker_of_another_ca_name_or_time_is_not_spoken_to() {
    let papers = papers();
    for (server, ca, word) in [
        ("server", "stranger", "not signed by a CA of mqtt.ca_file"),
        ("elsewhere", "house", "gateway.example"),
        ("old-server", "house", "has expired"),
    ] {
        let guarded = guarded!(&papers, server, false);
        let trying = Trying::start(config(guarded.port, papers.files(ca, None)));
        let trouble = trying.trouble();
        assert!(trouble.contains(word), "{server}: {trouble}");
    }
}

#[test]
fn a_broker_that_wants_our_certificate_says_no_without_it_and_with_a_foreign_one() {
    let papers = papers();
    for own in [None, Some("foreign")] {
        let guarded = guarded!(&papers, "server", true);
        let trying = Trying::start(config(guarded.port, papers.files("house", own)));
        let trouble = trying.trouble();
        assert!(trouble.contains("does not take our certificate"), "{own:?}: {trouble}");
        assert!(trouble.contains("mqtt.cert_file"), "{trouble}");
    }
}

#[test]
fn a_plain_port_is_told_from_one_with_tls() {
    let papers = papers();
    let Some(plain) = Mosquitto::start() else { return };
    let trying = Trying::start(config(plain.port, papers.files("house", None)));
    let trouble = trying.trouble();
    assert!(!trouble.is_empty(), "mosquitto hangs up on what is no MQTT");
    assert_eq!(trying.gauge.tally().connections, 0);
}

#[test]
fn a_renewed_certificate_is_read_at_the_next_connection() {
    let papers = papers();
    let mut guarded = guarded!(&papers, "server", true);
    std::fs::copy(papers.path("foreign.pem"), papers.path("own.pem")).expect("copied");
    std::fs::copy(papers.path("foreign.key"), papers.path("own.key")).expect("copied");
    let trying = Trying::start(config(guarded.port, papers.files("house", Some("own"))));
    assert!(trying.trouble().contains("does not take our certificate"));
    guarded.broker.kill();
    std::fs::copy(papers.path("node.pem"), papers.path("own.pem")).expect("copied");
    std::fs::copy(papers.path("node.key"), papers.path("own.key")).expect("copied");
    guarded.broker.restart();
    until("the new certificate is taken", || trying.gauge.tally().online);
    assert_eq!(trying.gauge.trouble(), None);
}

#[test]
fn bad_files_are_told_before_anything_is_connected() {
    let papers = papers();
    let good = || papers.files("house", Some("node"));
    let with = |edit: &dyn Fn(&mut TlsFiles)| {
        let mut files = good();
        edit(&mut files);
        complaint(config(1, files))
    };
    papers.write("empty.pem", "");
    papers.write("damaged.pem", "-----BEGIN CERTIFICATE-----\nno base64!\n");
    let path = |name: &str| Some(papers.path(name));
    assert!(with(&|files| files.ca_file = None).contains("needs mqtt.ca_file"));
    let missing = with(&|files| files.ca_file = path("gone.pem"));
    assert!(missing.contains("cannot read") && missing.contains("gone.pem"), "{missing}");
    assert!(with(&|files| files.ca_file = path("empty.pem")).contains("no certificate in PEM"));
    let damaged = with(&|files| files.ca_file = path("damaged.pem"));
    assert!(damaged.contains("mqtt.ca_file") && damaged.contains("damaged"), "{damaged}");
    assert!(with(&|files| files.key_file = None).contains("belong together"));
    assert!(with(&|files| files.cert_file = None).contains("belong together"));
    let swapped = with(&|files| files.key_file = path("server.key"));
    assert!(swapped.contains("is not the key of"), "{swapped}");
    assert!(with(&|files| files.key_file = path("node.pem")).contains("no private key in PEM"));
    let expired = complaint(config(1, papers.files("house", Some("expired"))));
    assert!(expired.contains("has expired") && expired.contains("expired.pem"), "{expired}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let key = papers.path("node.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("set");
        let open = complaint(config(1, good()));
        assert!(open.contains("0644") && open.contains("chmod 600"), "{open}");
    }
}

#[test]
fn a_goodbye_over_tls_is_said() {
    let papers = papers();
    let guarded = guarded!(&papers, "server", false);
    let status = Ear::on(guarded.broker.port, "5", &[&format!("{NODE}/status")]);
    let mut node = Node::start(config(guarded.port, papers.files("house", None)));
    assert_eq!(status.next().payload, "online");
    node.raise_stop();
    node.join();
    let goodbye = status.next();
    assert_eq!(goodbye.payload, "offline");
    assert!(status.is_silent_for(Duration::from_millis(50)), "the will is dropped");
}
