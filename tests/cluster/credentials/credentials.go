// Package credentials makes the keys and certificates of a cluster: one authority, the API server's certificate, an administrator's, whose
// every component is, and the key that service accounts' tokens are signed with.
package credentials

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/sluice-mesh/sluice/tests/cluster/layout"
)

const lifetime = 365 * 24 * time.Hour

// Write makes all of them, and the kubeconfig.
func Write(c layout.Cache) error {
	if err := os.MkdirAll(c.Credential(""), 0o700); err != nil {
		return err
	}
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	server := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.ParseIP(layout.APIAddress), net.ParseIP(layout.APIService), net.ParseIP("127.0.0.1")},
		DNSNames:    []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"},
	}
	admin := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	files := map[string][]byte{"ca.crt": ca.certificate()}
	for name, template := range map[string]*x509.Certificate{"server": server, "admin": admin} {
		if files[name+".crt"], files[name+".key"], err = ca.issue(template); err != nil {
			return fmt.Errorf("the certificate of %s: %w", template.Subject.CommonName, err)
		}
	}
	if files["accounts.pub"], files["accounts.key"], err = pair(); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(c.Credential(name), content, 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(c.Kubeconfig(), kubeconfig(files), 0o600)
}

// kubeconfig has the certificates in it, so that it may be copied.
func kubeconfig(files map[string][]byte) []byte {
	encode := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: %[1]s
  cluster: {server: "https://%[2]s:%[3]d", certificate-authority-data: %[4]s}
users:
- name: admin
  user: {client-certificate-data: %[5]s, client-key-data: %[6]s}
contexts:
- name: %[1]s
  context: {cluster: %[1]s, user: admin}
current-context: %[1]s
`, layout.Name, layout.APIAddress, layout.APIPort, encode(files["ca.crt"]), encode(files["admin.crt"]), encode(files["admin.key"]))
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: layout.Name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lifetime),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("the authority's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

func (a *authority) certificate() []byte { return encode("CERTIFICATE", a.cert.Raw) }

func (a *authority) issue(template *x509.Certificate) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, nil, err
	}
	template.KeyUsage, template.NotBefore, template.NotAfter = x509.KeyUsageDigitalSignature, a.cert.NotBefore, a.cert.NotAfter
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalECPrivateKey(private)
	return encode("CERTIFICATE", der), encode("EC PRIVATE KEY", raw), err
}

// pair makes a key of which both halves are wanted.
func pair() (public, private []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	p, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalECPrivateKey(key)
	return encode("PUBLIC KEY", p), encode("EC PRIVATE KEY", raw), err
}

// SelfSigned makes a certificate that signs itself, for the echo server, which wants one.
func SelfSigned(dir, name string) error {
	a, err := newAuthority()
	if err != nil {
		return err
	}
	cert, key, err := a.issue(&x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, name+".crt"), cert, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".key"), key, 0o600)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
