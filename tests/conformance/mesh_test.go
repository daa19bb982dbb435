// Package conformance runs the Gateway API's own conformance suite against the cluster that KUBECONFIG names: both mesh profiles, with
// all features. `make conformance` brings a cluster up for it. It is a module of its own, of the suite's version.
//
//	SLUICE_REPORT=FILE        where the report is written; none: it is only printed
//	SLUICE_VERSION=VERSION    the version that the report is of
//	SLUICE_INFER=1            the features are those that the XMesh says, which only the experimental channel has
//	SLUICE_CLUSTER=PROGRAM    the program of tests/cluster, which gives the nodes the echo server's image; none: they pull it
//	SLUICE_RUN=NAME           one test only
package conformance

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
	"sigs.k8s.io/yaml"
)

//go:embed own/*.yaml
var ownManifests embed.FS

// mesh is the name of the XMesh that Sluice keeps.
const mesh = "sluice"

// count is how many tests of the suite are of meshes: a suite that has lost some proves less.
const count = 22

// extended are the features beyond those that are of meshes alone.
var extended = [...]features.FeatureName{
	features.SupportHTTPRouteParentRefPort, features.SupportHTTPRouteResponseHeaderModification,
	features.SupportHTTPRoute303RedirectStatusCode, features.SupportHTTPRoute307RedirectStatusCode, features.SupportHTTPRoute308RedirectStatusCode,
}

func TestMesh(t *testing.T) {
	loadEcho(t)
	outcomes := map[string]string{}
	options := optionsOf(t)
	options.Hook = func(t *testing.T, test suite.ConformanceTest, _ *suite.ConformanceTestSuite) {
		outcomes[test.ShortName] = outcome(t)
	}
	awaitGone(t, options.Client)
	s, err := suite.NewConformanceTestSuite(options)
	if err != nil {
		t.Fatal(err)
	}
	official, own := meshTests(tests.ConformanceTests), ownTests()
	s.Setup(t, slices.Concat(official, own))
	// A test of the suite may run beside others: they have all ended when t.Run returns.
	t.Run("official", func(t *testing.T) {
		if err := s.Run(t, official); err != nil {
			t.Error(err)
		}
	})
	report(t, s)
	if options.RunTest == "" {
		checkOutcomes(t, official, outcomes)
	}
	t.Run("own", func(t *testing.T) {
		if err := s.Run(t, own); err != nil {
			t.Error(err)
		}
	})
	if options.RunTest == "" {
		for _, missing := range notPassed(own, outcomes) {
			t.Error(missing)
		}
	}
}

// meshTests are those of meshes. The others are of profiles that are not asked for: the report is the same without them.
func meshTests(all []suite.ConformanceTest) []suite.ConformanceTest {
	return slices.DeleteFunc(slices.Clone(all), func(test suite.ConformanceTest) bool { return !slices.Contains(test.Features, features.SupportMesh) })
}

// awaitGone waits until what an earlier run left has been removed: nothing can be made in a namespace that is going.
func awaitGone(t *testing.T, c client.Client) {
	for _, name := range []string{suite.MeshNamespace, suite.MeshConsumerNamespace} {
		err := wait.PollUntilContextTimeout(t.Context(), 200*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
			var ns corev1.Namespace
			err := c.Get(ctx, client.ObjectKey{Name: name}, &ns)
			return apierrors.IsNotFound(err) || err == nil && ns.DeletionTimestamp == nil, nil
		})
		if err != nil {
			t.Fatalf("namespace %s does not go: %v", name, err)
		}
	}
}

func optionsOf(t *testing.T) suite.ConformanceOptions {
	o := conformance.DefaultOptions(t)
	o.GatewayClassName = "" // there are no Gateways
	o.ConformanceProfiles = []suite.ConformanceProfileName{suite.MeshHTTPConformanceProfileName, suite.MeshGRPCConformanceProfileName}
	o.ManifestFS = []fs.FS{&conformance.Manifests, &ownManifests}
	o.CleanupBaseResources, o.CleanupTestResources = true, true
	o.RunTest = os.Getenv("SLUICE_RUN")
	o.Implementation = confv1.Implementation{
		Organization: "sluice-mesh", Project: "sluice", URL: "https://github.com/sluice-mesh/sluice",
		Version: cmp.Or(os.Getenv("SLUICE_VERSION"), "devel"), Contact: []string{"https://github.com/sluice-mesh/sluice/issues"},
	}
	if os.Getenv("SLUICE_INFER") == "1" {
		o.MeshName = mesh
		return o
	}
	names := features.SetsToNamesSet(features.MeshCoreFeatures, features.MeshExtendedFeatures, features.HTTPRouteCoreFeatures, features.GRPCRouteCoreFeatures)
	o.SupportedFeatures = append(slices.Sorted(maps.Keys(names)), extended[:]...)
	return o
}

const passed = "passed"

func outcome(t *testing.T) string {
	switch {
	case t.Failed():
		return "failed"
	case t.Skipped():
		return "skipped"
	}
	return passed
}

// checkOutcomes looks at the tests themselves. The report's summary is no proof: it does not count the tests whose features are of no
// profile, and one that is skipped is no failure to it.
func checkOutcomes(t *testing.T, all []suite.ConformanceTest, outcomes map[string]string) {
	if len(all) != count {
		t.Errorf("the suite has %d tests of meshes, and used to have %d", len(all), count)
	}
	missing := notPassed(all, outcomes)
	for _, m := range missing {
		t.Error(m)
	}
	t.Logf("%d of %d tests of meshes passed", len(all)-len(missing), len(all))
}

// notPassed names the tests that did not pass.
func notPassed(all []suite.ConformanceTest, outcomes map[string]string) (missing []string) {
	for _, test := range all {
		if o := outcomes[test.ShortName]; o != passed {
			missing = append(missing, test.ShortName+": "+cmp.Or(o, "not run"))
		}
	}
	return missing
}

// The gate itself has to be able to fail.
func TestSkippedTestsAreNoSuccess(t *testing.T) {
	all, outcomes := meshTests(tests.ConformanceTests), map[string]string{}
	for _, test := range all {
		outcomes[test.ShortName] = passed
	}
	if missing := notPassed(all, outcomes); len(missing) != 0 || len(all) != count {
		t.Errorf("all passed: %v of %d are missing, want none of %d", missing, len(all), count)
	}
	outcomes["MeshPorts"] = "skipped"
	delete(outcomes, "MeshConsumerRoute")
	if missing := notPassed(all, outcomes); len(missing) != 2 {
		t.Errorf("one test is skipped, one did not run: %v are missing", missing)
	}
}

func report(t *testing.T, s *suite.ConformanceTestSuite) {
	r, err := s.Report()
	if err != nil {
		t.Error(err)
		return
	}
	slices.SortFunc(r.ProfileReports, func(a, b confv1.ProfileReport) int { return strings.Compare(a.Name, b.Name) })
	text, err := yaml.Marshal(r)
	if err != nil {
		t.Error(err)
		return
	}
	t.Logf("report:\n%s", text)
	path := os.Getenv("SLUICE_REPORT")
	if path == "" {
		return
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o644)); err != nil {
		t.Error(err)
	}
}

// loadEcho gives the nodes the image of the suite's pods, by the name that the suite's manifests have for it.
func loadEcho(t *testing.T) {
	program := os.Getenv("SLUICE_CLUSTER")
	if program == "" {
		return
	}
	manifests, err := fs.ReadFile(&conformance.Manifests, "mesh/manifests.yaml")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^ *image: *(\S+) *$`).FindAllSubmatch(manifests, -1) {
		names[string(m[1])] = true
	}
	if len(names) != 1 {
		t.Fatalf("the suite's manifests have the images %v: one, that of the echo server, is expected", names)
	}
	for name := range names {
		if out, err := exec.CommandContext(t.Context(), program, "alias", "localhost/sluice-test/echo:latest", name).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}
