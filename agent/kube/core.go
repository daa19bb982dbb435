package kube

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Defaults and checks of the built-in kinds: those that we depend on, as an API server has them.

func defaultNamespace(n *corev1.Namespace) {
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
}

func validateNamespace(*corev1.Namespace) field.ErrorList { return nil }

func defaultPod(p *corev1.Pod) {
	switch s := &p.Status; {
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	case s.PodIP != "" && len(s.PodIPs) == 0:
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	}
	for _, containers := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			for j := range containers[i].Ports {
				defaultProtocol(&containers[i].Ports[j].Protocol)
			}
		}
	}
}

func defaultProtocol(p *corev1.Protocol) {
	if *p == "" {
		*p = corev1.ProtocolTCP
	}
}

func validatePod(p *corev1.Pod) (errs field.ErrorList) {
	status := field.NewPath("status")
	for i, ip := range p.Status.PodIPs {
		errs = append(errs, validateIP(ip.IP, status.Child("podIPs").Index(i).Child("ip"))...)
	}
	if len(p.Status.PodIPs) > 0 && p.Status.PodIP != p.Status.PodIPs[0].IP {
		errs = append(errs, field.Invalid(status.Child("podIP"), p.Status.PodIP, "must be the first of podIPs"))
	}
	spec := field.NewPath("spec")
	errs = append(errs, validateContainers(p.Spec.InitContainers, spec.Child("initContainers"))...)
	return append(errs, validateContainers(p.Spec.Containers, spec.Child("containers"))...)
}

func validateContainers(containers []corev1.Container, at *field.Path) (errs field.ErrorList) {
	for i, c := range containers {
		for j, port := range c.Ports {
			path := at.Index(i).Child("ports").Index(j)
			errs = append(errs, validateNumber(port.ContainerPort, path.Child("containerPort"))...)
			errs = append(errs, validateProtocol(port.Protocol, path.Child("protocol"))...)
			if port.Name != "" {
				errs = append(errs, invalid(validation.IsValidPortName(port.Name), port.Name, path.Child("name"))...)
			}
		}
	}
	return errs
}

func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == nil {
			p.Name = new("")
		}
		if p.Protocol == nil {
			p.Protocol = new(corev1.ProtocolTCP)
		}
	}
}

func validateEndpointSlice(s *discoveryv1.EndpointSlice) (errs field.ErrorList) {
	switch s.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN:
	case "":
		errs = append(errs, field.Required(field.NewPath("addressType"), "IPv4, IPv6 or FQDN"))
	default:
		errs = append(errs, field.NotSupported(field.NewPath("addressType"), s.AddressType, []string{"IPv4", "IPv6", "FQDN"}))
	}
	for i, e := range s.Endpoints {
		at := field.NewPath("endpoints").Index(i).Child("addresses")
		if len(e.Addresses) == 0 {
			errs = append(errs, field.Required(at, "an endpoint has at least one address"))
		}
		for j, a := range e.Addresses {
			errs = append(errs, validateAddress(a, s.AddressType, at.Index(j))...)
		}
	}
	names := map[string]bool{}
	for i, p := range s.Ports {
		at := field.NewPath("ports").Index(i)
		if names[*p.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), *p.Name))
		}
		names[*p.Name] = true
		errs = append(errs, validateProtocol(*p.Protocol, at.Child("protocol"))...)
		if p.Port != nil { // nil stands for all ports
			errs = append(errs, validateNumber(*p.Port, at.Child("port"))...)
		}
		if *p.Name != "" {
			errs = append(errs, invalid(validation.IsDNS1123Label(*p.Name), *p.Name, at.Child("name"))...)
		}
	}
	return errs
}

func validateAddress(a string, t discoveryv1.AddressType, at *field.Path) field.ErrorList {
	if t == discoveryv1.AddressTypeFQDN {
		return invalid(validation.IsDNS1123Subdomain(a), a, at)
	}
	if errs := validateIP(a, at); len(errs) > 0 {
		return errs
	}
	if is4 := netip.MustParseAddr(a).Is4(); is4 != (t == discoveryv1.AddressTypeIPv4) {
		return field.ErrorList{field.Invalid(at, a, fmt.Sprintf("must be of the addressType, %s", t))}
	}
	return nil
}

// validateIP takes the one way of writing an address that everyone reads alike.
func validateIP(ip string, at *field.Path) field.ErrorList {
	a, err := netip.ParseAddr(ip)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, ip, "must be an IP address such as 10.0.0.1 or fd00::1")}
	case a.Zone() != "":
		return field.ErrorList{field.Invalid(at, ip, "must not have a zone")}
	case a.Is4In6():
		return field.ErrorList{field.Invalid(at, ip, "must not be an IPv4 address written as IPv6")}
	}
	return nil
}

func validateNumber(port int32, at *field.Path) field.ErrorList {
	return invalid(validation.IsValidPortNum(int(port)), port, at)
}

func validateProtocol(p corev1.Protocol, at *field.Path) field.ErrorList {
	switch p {
	case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
		return nil
	}
	return field.ErrorList{field.NotSupported(at, p, []string{"TCP", "UDP", "SCTP"})}
}

func invalid(reasons []string, value any, at *field.Path) (errs field.ErrorList) {
	for _, r := range reasons {
		errs = append(errs, field.Invalid(at, value, r))
	}
	return errs
}
