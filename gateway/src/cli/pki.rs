//! `shardgate pki`: the certificates with which the nodes of a cluster know each other.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, value_parser};
use shardgate_replicate::pki::{
    AUTHORITY_DAYS, Authority, Certificate, EXPIRY_NEAR_DAYS, NODE_DAYS, NodeRequest, PkiError,
    VALIDITY_DAYS_MAX, Validity, date,
};
use shardgate_replicate_proto::identity::NodeId;

const DAY_S: u64 = 24 * 60 * 60;

pub(super) const EXAMPLES: &str = "\
Nodes of a cluster talk to each other by TLS, and each shows a certificate of the cluster's own
authority. A secure cluster of three takes four commands, on one machine that is kept safe:

  shardgate pki init --dir pki --cluster prod
  shardgate pki issue --dir pki --node gw-1 --id 1 --address 10.0.0.1
  shardgate pki issue --dir pki --node gw-2 --id 2 --address 10.0.0.2
  shardgate pki issue --dir pki --node gw-3 --id 3 --address 10.0.0.3

Give each node pki/ca.pem, its certificate (pki/gw-1.pem) and its key (pki/gw-1-key.pem).
Keep pki/ca-key.pem to yourself: whoever has it can make nodes of this cluster.";

const INIT_EXAMPLES: &str = "\
Writes DIR/ca.pem, which every node needs, and DIR/ca-key.pem, which none needs and only you may
read. An authority that is there already is left alone: nodes that trust it would be locked out.

Example:
  shardgate pki init --dir pki --cluster prod";

const ISSUE_EXAMPLES: &str = "\
Writes DIR/NODE.pem and DIR/NODE-key.pem with the authority in DIR. The certificate says which
node of which cluster it is for; with --id it is good for that id only. Addresses are for tools
that look at them: a node is known by its name, wherever it is.

To renew a certificate, move the old one away and issue it again.

Examples:
  shardgate pki issue --dir pki --node gw-1 --id 1
  shardgate pki issue --dir pki --node gw-1 --id 1 --address 10.0.0.1 --address gw-1.example.com
  shardgate pki issue --dir pki --node gw-1 --days 90";

const SHOW_EXAMPLES: &str = "\
Prints what the certificate says. Nobody verifies it here; nodes verify each other's.

Example:
  shardgate pki show pki/gw-1.pem";

#[derive(Args, Clone, Debug)]
pub(super) struct PkiArgs {
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum PkiCommand {
    /// Makes the authority of a new cluster
    #[command(after_help = INIT_EXAMPLES)]
    Init {
        /// Directory for the authority's certificate and key
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The cluster's name: a-z, 0-9 and '-'
        #[arg(long, value_name = "NAME")]
        cluster: String,
        /// Days for which the authority is good
        #[arg(long, value_name = "N", default_value_t = AUTHORITY_DAYS)]
        #[arg(value_parser = value_parser!(u64).range(1..=VALIDITY_DAYS_MAX))]
        days: u64,
    },
    /// Makes a node's key, and the certificate that says whose it is
    #[command(after_help = ISSUE_EXAMPLES)]
    Issue {
        /// Directory of the authority, and for the new files
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The node's name, as in its configuration
        #[arg(long, value_name = "NAME")]
        node: String,
        /// The node's id, if the certificate shall be good for no other
        #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..))]
        id: Option<u16>,
        /// IP address or host name of the node; may be given several times
        #[arg(long, value_name = "HOST", value_delimiter = ',')]
        address: Vec<String>,
        /// Days for which the certificate is good
        #[arg(long, value_name = "N", default_value_t = NODE_DAYS)]
        #[arg(value_parser = value_parser!(u64).range(1..=VALIDITY_DAYS_MAX))]
        days: u64,
    },
    /// Shows what a certificate says
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// Certificate (PEM)
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Does what was asked for. The text is for whoever asked.
pub(super) fn run(arguments: PkiArgs) -> Result<String, PkiError> {
    match arguments.command {
        PkiCommand::Init { dir, cluster, days } => {
            Authority::init(&dir, &cluster, Validity::days(days))?;
            let (certificate, key) = Authority::files(&dir);
            Ok(format!(
                "made the authority of cluster {cluster}, good for {days} days\n\
                 {}  for every node\n\
                 {}  for nobody: whoever has it can make nodes\n\
                 next: shardgate pki issue --dir {} --node NAME --id N\n",
                certificate.display(),
                key.display(),
                dir.display(),
            ))
        }
        PkiCommand::Issue { dir, node, id, address, days } => {
            let authority = Authority::load(&dir)?;
            let request = NodeRequest {
                name: node,
                node: id.map(NodeId),
                addresses: address,
                validity: Validity::days(days),
            };
            let files = authority.issue(&request)?.write(&dir)?;
            let mut text = format!(
                "issued a certificate for {} of cluster {}, good for {days} days\n\
                 the node needs these three:\n  {}\n  {}\n  {}\n",
                request.name,
                authority.cluster(),
                files.authority.display(),
                files.certificate.display(),
                files.key.display(),
            );
            let authority = Certificate::read(&files.authority)?;
            if authority.not_after_s < now_s() + days * DAY_S {
                let end = date(authority.not_after_s);
                text.push_str(&format!("note: the authority itself is good until {end} only\n"));
            }
            Ok(text)
        }
        PkiCommand::Show { file } => {
            let certificate = Certificate::read(&file)?;
            Ok(format!("{certificate}{}", remark(&certificate, now_s())))
        }
    }
}

/// What its dates mean today.
fn remark(certificate: &Certificate, now_s: u64) -> String {
    let days_left = certificate.not_after_s.saturating_sub(now_s) / DAY_S;
    if now_s > certificate.not_after_s {
        "note: it has expired; nodes refuse it\n".to_owned()
    } else if now_s < certificate.not_before_s {
        "note: it is not valid yet; nodes refuse it until then\n".to_owned()
    } else if days_left < EXPIRY_NEAR_DAYS {
        format!("note: it expires in {days_left} days; issue the next one soon\n")
    } else {
        String::new()
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_its_dates_mean_is_remarked() {
        let authority = Authority::create("prod", Validity::days(100)).expect("an authority");
        let pem = authority.certificate_pem().as_bytes();
        let certificate = Certificate::from_pem(pem, "memory").expect("a certificate");
        let of = |now_s| remark(&certificate, now_s);
        assert_eq!(of(now_s()), "");
        assert!(of(certificate.not_before_s - 1).contains("not valid yet"));
        assert!(of(certificate.not_after_s - 3 * DAY_S).contains("expires in 3 days"));
        assert!(of(certificate.not_after_s + 1).contains("has expired"));
    }
}
