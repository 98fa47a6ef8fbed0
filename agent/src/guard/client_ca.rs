//! What the guard shows to a server for a client that has shown a certificate: another one with the same subject, by an
//! authority that the server was told to believe for this.
//!
//! Whoever has that authority's key can be anybody. The subject is copied as it stands, byte for byte: servers compare it, and know people by it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use rustls::{
    SignatureScheme,
    crypto::ring::sign::any_supported_type,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer,
        pem::PemObject as _,
    },
    sign::SigningKey,
};
use time::UtcDateTime;
use webpki::EndEntityCert;

use super::{tls::TlsError, wire::Clients};

/// Such a certificate is used at once, and never again.
const LIFE: Duration = Duration::from_secs(600);
/// Clocks of two hosts differ, and a server may be in a container with a wrong one.
const LEEWAY: Duration = Duration::from_secs(300);

/// Bytes of the DER encoding that never change: object identifiers with their tag and length.
const ECDSA_SHA256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const RSA_SHA256: &[u8] =
    &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00];
const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
const EXTENDED_KEY_USAGE: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x25];
const CLIENT_AUTH: &[u8] = &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
const VERSION_3: &[u8] = &[0xa0, 0x03, 0x02, 0x01, 0x02];

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const EXTENSIONS: u8 = 0xa3;

/// An authority for certificates of clients.
#[derive(Debug)]
pub(super) struct ClientCa {
    certificate: CertificateDer<'static>,
    key: Arc<dyn SigningKey>,
}

impl ClientCa {
    pub(super) fn new(clients: &Clients) -> Result<Self, TlsError> {
        let certificate = CertificateDer::from_pem_slice(clients.ca_certificate.as_bytes())
            .map_err(TlsError::Chain)?;
        let key =
            PrivateKeyDer::from_pem_slice(clients.ca_key.as_bytes()).map_err(TlsError::Key)?;
        let ca = Self { certificate, key: any_supported_type(&key)? };
        let authorities = CertificateDer::pem_slice_iter(clients.authorities.as_bytes());
        if !authorities.filter_map(Result::ok).any(|one| one == ca.certificate) {
            return Err(TlsError::NotBelieved);
        }
        // Whether key and certificate belong together shows at once, and not with the first client.
        let of_certificate = subject_and_key(&ca.certificate)?.1;
        match ca.key.public_key() {
            Some(own) if *own != *of_certificate => Err(TlsError::OtherKey),
            _ => Ok(ca),
        }
    }

    /// A certificate with the subject of that one, and its key.
    pub(super) fn stand_in(
        &self,
        shown: &CertificateDer<'_>,
        now: SystemTime,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
            .map_err(|_| TlsError::NoRandom)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.as_ref().to_vec()));
        let signing = any_supported_type(&key)?;
        let public = signing.public_key().ok_or(TlsError::NoRandom)?;
        let mut serial = [0; 16];
        random.fill(&mut serial).map_err(|_| TlsError::NoRandom)?;
        // Neither negative nor shorter than it is said to be.
        serial[0] = serial[0] & 0x3f | 0x40;
        let certificate = self.sign(&subject_and_key(shown)?.0, &public, &serial, now)?;
        Ok((vec![certificate, self.certificate.clone()], key))
    }

    fn sign(
        &self,
        subject: &[u8],
        public_key: &[u8],
        serial: &[u8],
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, TlsError> {
        let signer = self
            .key
            .choose_scheme(&[
                SignatureScheme::ECDSA_NISTP256_SHA256,
                SignatureScheme::ECDSA_NISTP384_SHA384,
                SignatureScheme::ED25519,
                SignatureScheme::RSA_PKCS1_SHA256,
            ])
            .ok_or(TlsError::OtherKey)?;
        let algorithm = match signer.scheme() {
            SignatureScheme::ECDSA_NISTP256_SHA256 => ECDSA_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384 => ECDSA_SHA384,
            SignatureScheme::ED25519 => ED25519,
            _ => RSA_SHA256,
        };
        let algorithm = der(SEQUENCE, &[algorithm]);
        let issuer = subject_and_key(&self.certificate)?.0;
        let (since, until) = (time(now - LEEWAY), time(now + LIFE));
        let usage = der(OCTET_STRING, &[&der(SEQUENCE, &[CLIENT_AUTH])]);
        let extension = der(SEQUENCE, &[EXTENDED_KEY_USAGE, &usage]);
        let to_sign = der(
            SEQUENCE,
            &[
                VERSION_3,
                &der(INTEGER, &[serial]),
                &algorithm,
                &issuer,
                &der(SEQUENCE, &[&since, &until]),
                subject,
                public_key,
                &der(EXTENSIONS, &[&der(SEQUENCE, &[&extension])]),
            ],
        );
        let signature = signer.sign(&to_sign)?;
        let signature = der(BIT_STRING, &[&[0], &signature]);
        Ok(CertificateDer::from(der(SEQUENCE, &[&to_sign, &algorithm, &signature])))
    }
}

/// What a server trusts its clients' certificates by.
pub(super) fn authorities(clients: &Clients) -> Result<rustls::RootCertStore, TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(clients.authorities.as_bytes()) {
        roots.add(authority.map_err(TlsError::Chain)?)?;
    }
    Ok(roots)
}

/// Which of them count no more.
pub(super) fn revoked(
    clients: &Clients,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists = clients.revoked.as_deref().unwrap_or_default();
    CertificateRevocationListDer::pem_slice_iter(lists.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(TlsError::Chain)
}

/// Both as they stand in the certificate, with tag and length.
fn subject_and_key(certificate: &CertificateDer<'_>) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let parsed = EndEntityCert::try_from(certificate).map_err(TlsError::Unreadable)?;
    Ok((der(SEQUENCE, &[parsed.subject()]), parsed.subject_public_key_info().to_vec()))
}

/// A value of these parts, one after the other.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut value = vec![tag];
    match u8::try_from(len) {
        Ok(len) if len < 0x80 => value.push(len),
        _ => {
            let bytes = len.to_be_bytes();
            let skipped = bytes.iter().take_while(|byte| **byte == 0).count();
            value.push(0x80 | (bytes.len() - skipped) as u8);
            value.extend(bytes.iter().skip(skipped));
        }
    }
    parts.iter().for_each(|part| value.extend_from_slice(part));
    value
}

/// Of two digits for the year up to 2049, of four after that.
fn time(at: SystemTime) -> Vec<u8> {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let at = i64::try_from(seconds).ok();
    let at = at.and_then(|at| UtcDateTime::from_unix_timestamp(at).ok());
    let at = at.unwrap_or(UtcDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let rest = format!("{month:02}{day:02}{:02}{:02}{:02}Z", at.hour(), at.minute(), at.second());
    match year {
        1950..2050 => der(UTC_TIME, &[format!("{:02}{rest}", year % 100).as_bytes()]),
        _ => der(GENERALIZED_TIME, &[format!("{year:04}{rest}").as_bytes()]),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{SEQUENCE, der, time};

    #[test]
    fn lengths_are_as_short_as_can_be() {
        for (len, head) in [
            (0, &[0x30, 0][..]),
            (127, &[0x30, 127]),
            (128, &[0x30, 0x81, 128]),
            (255, &[0x30, 0x81, 255]),
            (256, &[0x30, 0x82, 1, 0]),
            (65_536, &[0x30, 0x83, 1, 0, 0]),
        ] {
            let value = der(SEQUENCE, &[&vec![7; len]]);
            assert!(value.starts_with(head) && value.len() == head.len() + len, "{len}");
        }
    }

    #[test]
    fn the_year_2050_has_four_digits() {
        for (seconds, expected) in [
            (0, &b"\x17\x0d700101000000Z"[..]),
            (1_764_403_199, b"\x17\x0d251129075959Z"),
            (2_524_607_999, b"\x17\x0d491231235959Z"),
            (2_524_608_000, b"\x18\x0f20500101000000Z"),
        ] {
            assert_eq!(time(UNIX_EPOCH + Duration::from_secs(seconds)), expected, "{seconds}");
        }
    }
}
