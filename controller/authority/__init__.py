"""Who is a member of the fleet, and how one proves it: `authority.py` is what others use."""

from controller.authority.authority import Authority, Credentials, Enrolled, EnrolmentRequest, KeyedCertificate
from controller.authority.settings import AuthoritySettings

__all__ = ["Authority", "AuthoritySettings", "Credentials", "Enrolled", "EnrolmentRequest", "KeyedCertificate"]
