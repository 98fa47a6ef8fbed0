//! TLS with the server's own certificate towards clients, and towards the server whenever the client spoke it.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{stream::Socket, wire::Certificate};

/// Of one server.
#[derive(Clone)]
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
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
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { own, provider }))
            .with_no_client_auth();
        Ok(Self { acceptor: Arc::new(server).into(), connector: Arc::new(client).into() })
    }

    pub(super) async fn accept(&self, client: Socket) -> io::Result<Box<TlsStream<Socket>>> {
        Ok(Box::new(self.acceptor.accept(client).await?.into()))
    }

    pub(super) async fn connect(&self, server: Socket) -> io::Result<Box<TlsStream<Socket>>> {
        // Which name it has makes no difference: the certificate itself is known.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        Ok(Box::new(self.connector.connect(name, server).await?.into()))
    }
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
