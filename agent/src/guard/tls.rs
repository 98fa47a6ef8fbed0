//! TLS with the server's own certificate towards clients, and towards the server whenever the client spoke it.

use std::{io, sync::Arc, time::SystemTime};

use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::{
        WantsClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{
    client_ca::{ClientCa, authorities, revoked},
    stream::Socket,
    wire::Certificate,
};
use crate::event::in_full;

/// Of one server.
#[derive(Clone)]
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    pinned: Arc<Pinned>,
    /// Shows the server something for what a client has shown.
    clients: Option<Arc<ClientCa>>,
}

/// Why a certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the certificate is no PEM file")]
    Chain(#[source] rustls::pki_types::pem::Error),
    #[error("there is no certificate in the file")]
    NoCertificate,
    #[error("the key can't be read: it must be PEM, without a passphrase")]
    Key(#[source] rustls::pki_types::pem::Error),
    #[error("certificate and key can't be used")]
    Unusable(#[from] rustls::Error),
    #[error("clients' certificates can't be verified")]
    Clients(#[from] rustls::server::VerifierBuilderError),
    #[error("a certificate can't be read")]
    Unreadable(#[source] webpki::Error),
    #[error("the key is not that of the certificate")]
    OtherKey,
    #[error("client_ca_certificate is not in the server's ssl_ca_file")]
    NotBelieved,
    #[error("no key can be made")]
    NoRandom,
}

/// As PostgreSQL 17 wants it of whoever begins with TLS.
const ALPN: &[u8] = b"postgresql";

impl Tls {
    pub(super) fn new(certificate: &Certificate) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(certificate.chain.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(TlsError::Chain)?;
        let own = chain.first().cloned().ok_or(TlsError::NoCertificate)?;
        let key =
            PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).map_err(TlsError::Key)?;
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let (server, clients) = match &certificate.clients {
            None => (server.with_no_client_auth(), None),
            Some(clients) => {
                let roots = Arc::new(authorities(clients)?);
                let lists = revoked(clients)?;
                // Who shows none gets to the server, too, which says whether it lets him in.
                let mut verifier =
                    WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
                        .allow_unauthenticated();
                if !lists.is_empty() {
                    verifier = verifier.with_crls(lists);
                }
                let server = server.with_client_cert_verifier(verifier.build()?);
                (server, Some(Arc::new(ClientCa::new(clients)?)))
            }
        };
        let mut server = server.with_single_cert(chain, key)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        let pinned = Arc::new(Pinned { own, provider });
        let connector = Arc::new(towards(&pinned)?.with_no_client_auth()).into();
        Ok(Self { acceptor: Arc::new(server).into(), connector, pinned, clients })
    }

    pub(super) async fn accept(&self, client: Socket) -> io::Result<Box<TlsStream<Socket>>> {
        Ok(Box::new(self.acceptor.accept(client).await?.into()))
    }

    /// `shown`: the client's certificate, which has been verified.
    pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        server: S,
        shown: Option<&CertificateDer<'_>>,
    ) -> io::Result<Box<TlsStream<S>>> {
        let connector = match (shown, &self.clients) {
            (Some(shown), Some(ca)) => {
                self.standing_in(ca, shown).map_err(|error| io::Error::other(in_full(&error)))?
            }
            _ => self.connector.clone(),
        };
        // Which name it has makes no difference: the certificate itself is known.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        Ok(Box::new(connector.connect(name, server).await?.into()))
    }

    fn standing_in(
        &self,
        ca: &ClientCa,
        shown: &CertificateDer<'_>,
    ) -> Result<TlsConnector, TlsError> {
        let (chain, key) = ca.stand_in(shown, SystemTime::now())?;
        Ok(Arc::new(towards(&self.pinned)?.with_client_auth_cert(chain, key)?).into())
    }
}

/// What is common to all connections to the server.
fn towards(
    pinned: &Arc<Pinned>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    Ok(ClientConfig::builder_with_provider(pinned.provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone()))
}

/// Takes the one certificate that the guard itself shows: the server's.
#[derive(Debug)]
struct Pinned {
    own: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match *shown == self.own {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::General(
                "the server shows another certificate than the guard".to_owned(),
            )),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
