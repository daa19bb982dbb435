package credentials

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"

	"github.com/sluice-mesh/sluice/tests/cluster/layout"
)

// Clients that trust the authority trust the server by its names, and the server trusts the administrator.
func TestCertificatesFitTogether(t *testing.T) {
	c := layout.Cache(t.TempDir())
	if err := Write(c); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(c.Credential("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	for name, usage := range map[string]x509.ExtKeyUsage{"server": x509.ExtKeyUsageServerAuth, "admin": x509.ExtKeyUsageClientAuth} {
		pair, err := tls.LoadX509KeyPair(c.Credential(name+".crt"), c.Credential(name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := pair.Leaf.VerifyHostname(layout.APIAddress); (err == nil) != (name == "server") {
			t.Errorf("%s is for %s: %v", name, layout.APIAddress, err)
		}
	}
}
