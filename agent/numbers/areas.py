"""Which country an area code (NPA) belongs to: a table, from what the numbering administrations publish.

Country code +1 is shared by 25 countries and territories, each with area codes of its own. The table must be
complete for every country but the United States: a list of "unallocated" area codes that is built from a US
file alone would block all of Canada and the Caribbean. For the United States it holds what was assigned when
it was written; an area code that it does not know is *unknown*, never unallocated.

Knows nothing of numbers, only of area codes. Sources: NANPA's area code reports, the Canadian Numbering
Administrator's list (assigned codes, and those set aside for the relief of Canadian areas).
"""

from typing import Final, NamedTuple


class Area(NamedTuple):
    """A country or territory: ISO 3166 code ("" unknown or shared), and its name for people."""

    code: str
    name: str


UNKNOWN_AREA: Final = Area("", "unknown")

_COUNTRIES: Final[tuple[tuple[str, str, str], ...]] = (
    (
        "CA",
        "Canada",
        (
            "204 226 236 249 250 257 263 273 289 306 343 354 365 367 368 382 387 403 416 418 428 431 437 438 "
            "450 460 468 474 487 506 514 519 537 548 568 579 581 584 587 604 613 639 647 672 683 705 709 742 "
            "753 778 780 782 807 819 825 851 867 871 873 879 902 905 942 "
            "600 622 633 644 655 677 688"  # non-geographic, for Canada alone
        ),
    ),
    ("AG", "Antigua and Barbuda", "268"),
    ("AI", "Anguilla", "264"),
    ("BB", "Barbados", "246"),
    ("BM", "Bermuda", "441"),
    ("BS", "Bahamas", "242"),
    ("DM", "Dominica", "767"),
    ("DO", "Dominican Republic", "809 829 849"),
    ("GD", "Grenada", "473"),
    ("JM", "Jamaica", "658 876"),
    ("KN", "Saint Kitts and Nevis", "869"),
    ("KY", "Cayman Islands", "345"),
    ("LC", "Saint Lucia", "758"),
    ("MS", "Montserrat", "664"),
    ("SX", "Sint Maarten", "721"),
    ("TC", "Turks and Caicos Islands", "649"),
    ("TT", "Trinidad and Tobago", "868"),
    ("VC", "Saint Vincent and the Grenadines", "784"),
    ("VG", "British Virgin Islands", "284"),
    ("AS", "American Samoa", "684"),
    ("GU", "Guam", "671"),
    ("MP", "Northern Mariana Islands", "670"),
    ("PR", "Puerto Rico", "787 939"),
    ("VI", "United States Virgin Islands", "340"),
    (
        "US",
        "United States",
        (
            "201 202 203 205 206 207 208 209 210 212 213 214 215 216 217 218 219 220 223 224 225 227 228 229 "
            "231 234 235 239 240 248 251 252 253 254 256 260 262 267 269 270 272 274 276 279 281 283 301 302 "
            "303 304 305 307 308 309 310 312 313 314 315 316 317 318 319 320 321 323 324 325 326 327 329 330 "
            "331 332 334 336 337 339 341 346 347 350 351 352 353 360 361 363 364 369 380 385 386 401 402 404 "
            "405 406 407 408 409 410 412 413 414 415 417 419 423 424 425 430 432 434 435 436 440 442 443 445 "
            "447 448 457 458 463 464 469 470 472 475 478 479 480 484 501 502 503 504 505 507 508 509 510 512 "
            "513 515 516 517 518 520 530 531 534 539 540 541 551 557 559 561 562 563 564 567 570 571 572 573 "
            "574 575 580 582 585 586 601 602 603 605 606 607 608 609 610 612 614 615 616 617 618 619 620 623 "
            "626 628 629 630 631 636 640 641 645 646 650 651 656 657 659 660 661 662 667 669 678 679 680 681 "
            "682 686 689 701 702 703 704 706 707 708 710 712 713 714 715 716 717 718 719 720 724 725 726 727 "
            "728 729 730 731 732 734 737 738 740 743 747 748 754 757 760 762 763 765 769 770 771 772 773 774 "
            "775 779 781 785 786 801 802 803 804 805 806 808 810 812 813 814 815 816 817 818 820 821 826 828 "
            "830 831 832 835 838 839 840 843 845 847 848 850 854 856 857 858 859 860 861 862 863 864 865 870 "
            "872 878 901 903 904 906 907 908 909 910 912 913 914 915 916 917 918 919 920 925 928 929 930 931 "
            "934 936 937 938 940 941 943 945 947 948 949 951 952 954 956 959 970 971 972 973 975 978 979 980 "
            "983 984 985 986 989"
        ),
    ),
)

AREAS: Final[dict[int, Area]] = {int(npa): Area(code, name) for code, name, npas in _COUNTRIES for npa in npas.split()}

# NANPA itself allocates the numbers of these; elsewhere its files say nothing of who holds a number.
NANPA_ALLOCATES: Final = frozenset({"US", "AS", "GU", "MP", "PR", "VI"})


def area_of(npa: int) -> Area:
    """The country of an area code, or UNKNOWN_AREA (also for shared codes such as 800 and 500)."""
    return AREAS.get(npa, UNKNOWN_AREA)


def is_foreign_to_nanpa(npa: int) -> bool:
    """Whether another administration than NANPA allocates its numbers: Canada, the Caribbean, Bermuda."""
    area = AREAS.get(npa)
    return area is not None and area.code not in NANPA_ALLOCATES
